package sbom

import (
	"slices"
	"strings"
)

// cycloneDocument is a CycloneDX 1.6 document (ECMA-424), as much of it as is written.
type cycloneDocument struct {
	Schema       string               `json:"$schema"`
	Format       string               `json:"bomFormat"`
	SpecVersion  string               `json:"specVersion"`
	SerialNumber string               `json:"serialNumber"`
	Version      int                  `json:"version"`
	Metadata     cycloneMetadata      `json:"metadata"`
	Components   []cycloneComponent   `json:"components"`
	Compositions []cycloneComposition `json:"compositions,omitempty"`
}

type cycloneMetadata struct {
	Timestamp  string             `json:"timestamp"`
	Tools      cycloneTools       `json:"tools"`
	Component  cycloneComponent   `json:"component"`
	Properties []cycloneNameValue `json:"properties,omitempty"`
}

type cycloneTools struct {
	Components []cycloneComponent `json:"components"`
}

type cycloneComponent struct {
	Type        string           `json:"type"`
	Ref         string           `json:"bom-ref,omitempty"`
	Supplier    *cycloneName     `json:"supplier,omitempty"`
	Name        string           `json:"name"`
	Version     string           `json:"version,omitempty"`
	Description string           `json:"description,omitempty"`
	Licenses    []cycloneLicense `json:"licenses,omitempty"`
	PURL        string           `json:"purl,omitempty"`
	Evidence    *cycloneEvidence `json:"evidence,omitempty"`
}

// cycloneLicense is an expression, or else a license by its identifier or name.
type cycloneLicense struct {
	Expression string       `json:"expression,omitempty"`
	License    *cycloneName `json:"license,omitempty"`
}

type cycloneName struct {
	ID   string `json:"id,omitempty"`
	Name string `json:"name,omitempty"`
}

type cycloneEvidence struct {
	Occurrences []cyclonePlace `json:"occurrences"`
}

type cyclonePlace struct {
	Location string `json:"location"`
}

type cycloneComposition struct {
	Aggregate  string   `json:"aggregate"`
	Assemblies []string `json:"assemblies"`
}

type cycloneNameValue struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// cycloneImage is the reference of the image itself.
const cycloneImage = "image"

// cycloneDX words the inventory; id makes the document's serial number.
func (inv *Inventory) cycloneDX(about About, id string) any {
	d := &cycloneDocument{
		Schema: "http://cyclonedx.org/schema/bom-1.6.schema.json", Format: "CycloneDX", SpecVersion: "1.6",
		SerialNumber: "urn:uuid:" + id, Version: 1,
		Metadata: cycloneMetadata{
			Timestamp: when(about.Created),
			Tools:     cycloneTools{[]cycloneComponent{{Type: "application", Name: "builder", Version: word(about.Tool)}}},
			Component: cycloneComponent{Type: "container", Ref: cycloneImage, Name: about.Name, Version: about.ID},
		},
		Components: make([]cycloneComponent, 0, len(inv.Packages)+1),
	}
	for _, line := range inv.Unread {
		d.Metadata.Properties = append(d.Metadata.Properties, cycloneNameValue{"builder:unread", line})
	}
	if len(inv.Unread) > 0 {
		d.Compositions = []cycloneComposition{{"incomplete", []string{cycloneImage}}}
	}
	if inv.OS.ID != "" {
		d.Components = append(d.Components, cycloneComponent{Type: "operating-system", Ref: "os", Name: inv.OS.ID, Version: inv.OS.Version, Description: inv.OS.Name})
	}
	for i := range inv.Packages {
		d.Components = append(d.Components, cyclonePackage(&inv.Packages[i]))
	}
	return d
}

func cyclonePackage(p *Package) cycloneComponent {
	c := cycloneComponent{Type: "library", Ref: p.PURL, Name: p.Name, Version: p.Version, PURL: p.PURL,
		Licenses: cycloneLicenses(p.Licenses), Evidence: &cycloneEvidence{}}
	if p.Supplier != "" {
		c.Supplier = &cycloneName{Name: p.Supplier}
	}
	for _, at := range p.Found {
		c.Evidence.Occurrences = append(c.Evidence.Occurrences, cyclonePlace{at})
	}
	return c
}

// cycloneLicenses are either one expression alone or a list of identifiers and names: the format has nothing between.
func cycloneLicenses(declared []string) []cycloneLicense {
	words := make([]string, len(declared))
	for i, l := range declared {
		words[i] = expression(l)
	}
	if !slices.Contains(words, "") && slices.ContainsFunc(words, func(w string) bool { return !isID(w) }) {
		return []cycloneLicense{{Expression: allOf(words)}}
	}
	var list []cycloneLicense
	for i, w := range words {
		name := &cycloneName{Name: declared[i]}
		if isID(w) {
			name = &cycloneName{ID: w}
		}
		list = append(list, cycloneLicense{License: name})
	}
	return list
}

// allOf is the expression that asks for each of several.
func allOf(expressions []string) string {
	if len(expressions) == 1 {
		return expressions[0]
	}
	all := slices.Clone(expressions)
	for i, e := range all {
		if strings.Contains(e, " OR ") {
			all[i] = "(" + e + ")"
		}
	}
	return strings.Join(all, " AND ")
}
